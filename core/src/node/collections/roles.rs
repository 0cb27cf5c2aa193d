//! What is written for all kinds of collections alike.

/// Makes a kind of collection openable, in each role.
macro_rules! roles {
    ([$($generics:tt)*] $collection:ty) => {
        impl<$($generics)*> $collection {
            /// Opens the collection `id` to read and write it, as far as this node is concerned: its members find each
            /// other in the background. [`When::online`](crate::collections::When::online) tells.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError), for example where this node has it open already.
            pub async fn writer(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
            ) -> Result<crate::collections::Writer<Self>, crate::collections::OpenError> {
                Self::writer_with_config(network, id, Default::default()).await
            }

            /// [`writer`](Self::writer) with another configuration than the default one.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError).
            pub async fn writer_with_config(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
                config: crate::collections::CollectionConfig,
            ) -> Result<crate::collections::Writer<Self>, crate::collections::OpenError> {
                crate::collections::Writer::open(network, id.into(), config).await
            }

            /// [`writer`](Self::writer), online: waits until this node has caught up.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError), for example where the collection holds other element types.
            pub async fn online_writer(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
            ) -> Result<crate::collections::Writer<Self>, crate::collections::OpenError> {
                Self::online_writer_with_config(network, id, Default::default()).await
            }

            /// [`online_writer`](Self::online_writer) with another configuration than the default one.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError).
            pub async fn online_writer_with_config(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
                config: crate::collections::CollectionConfig,
            ) -> Result<crate::collections::Writer<Self>, crate::collections::OpenError> {
                let writer = Self::writer_with_config(network, id, config).await?;
                writer.online().await?;
                Ok(writer)
            }

            /// Opens the collection `id` to read it: this node observes, and is never one of those who decide. Its
            /// members find each other in the background.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError), for example where this node has it open already.
            pub async fn reader(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
            ) -> Result<crate::collections::Reader<Self>, crate::collections::OpenError> {
                Self::reader_with_config(network, id, Default::default()).await
            }

            /// [`reader`](Self::reader) with another configuration than the default one.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError).
            pub async fn reader_with_config(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
                config: crate::collections::CollectionConfig,
            ) -> Result<crate::collections::Reader<Self>, crate::collections::OpenError> {
                let observer = crate::groups::LeadershipPreference::Observer;
                crate::collections::Reader::open(network, id.into(), config, observer).await
            }

            /// [`reader`](Self::reader), online: waits until this node has caught up, which takes a writer.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError), for example where the collection holds other element types.
            pub async fn online_reader(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
            ) -> Result<crate::collections::Reader<Self>, crate::collections::OpenError> {
                Self::online_reader_with_config(network, id, Default::default()).await
            }

            /// [`online_reader`](Self::online_reader) with another configuration than the default one.
            ///
            /// # Errors
            /// [`OpenError`](crate::collections::OpenError).
            pub async fn online_reader_with_config(
                network: &crate::Network,
                id: impl Into<crate::StoreId>,
                config: crate::collections::CollectionConfig,
            ) -> Result<crate::collections::Reader<Self>, crate::collections::OpenError> {
                let reader = Self::reader_with_config(network, id, config).await?;
                reader.online().await?;
                Ok(reader)
            }
        }
    };
}

/// Makes operations methods: of batches, to which they are added, and of writers, who commit them alone.
macro_rules! writes {
    ([$($generics:tt)*] $collection:ty {
        $(
            $(#[$doc:meta])*
            fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty = $operation:expr;
        )*
    }) => {
        impl<$($generics)*> crate::collections::Batch<$collection> {
            $(
                $(#[$doc])*
                pub fn $name(&mut self, $($argument: $type),*) -> crate::collections::Ticket<$result> {
                    self.push(&$operation)
                }
            )*
        }

        impl<$($generics)*> crate::collections::Writer<$collection> {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`WriteError`](crate::collections::WriteError).
                pub async fn $name(
                    &self,
                    $($argument: $type),*
                ) -> crate::collections::Written<$collection, $result> {
                    let mut batch = crate::collections::Batch::<$collection>::new();
                    let ticket = batch.$name($($argument),*);
                    self.commit_one(batch, ticket).await
                }
            )*
        }
    };
}

pub(super) use {roles, writes};
